"""`hearthline ca`: the platform's certificate authority, in the data directory."""

import typer

from cloud.cli.output import Output, OutputOption, show
from cloud.cli.up import DATA, DataOption

app = typer.Typer(no_args_is_help=True, help="The certificate authority that gateways trust, in the data directory.")


@app.command("show")
def show_certificates(data: DataOption = DATA, output: OutputOption = Output.TABLE) -> None:
    """The CA's certificate and the server's: names, validity (epoch ms), fingerprint. Makes the CA when there is none."""
    from cloud.foundation.authority import Authority
    from cloud.settings import Settings

    authority = Authority(Settings.read().for_directory(data).tls_dir)
    rows = [
        {"subject": one.subject, "names": " ".join(one.names), "from": one.from_ms, "to": one.to_ms, "sha256": one.sha256}
        for one in authority.certificates()
    ]
    show(rows, output)


@app.command("export")
def export(data: DataOption = DATA) -> None:
    """Print the CA's certificate (PEM): the file that `uplink.ca_file` of a gateway names."""
    from cloud.foundation.authority import Authority
    from cloud.settings import Settings

    typer.echo(Authority(Settings.read().for_directory(data).tls_dir).ca_file.read_text(), nl=False)

"""`python -m cloud` is `hearthline`."""

from cloud.cli import main

if __name__ == "__main__":
    main()

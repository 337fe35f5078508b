"""What every test shares: no deadlines on a busy 2-core machine, replayable examples."""

from hypothesis import settings

settings.register_profile("hearthline", deadline=None, print_blob=True)
settings.load_profile("hearthline")

"""`python -m firmware_sim`: the same as `fwsim`."""

from firmware_sim.cli import main

main()

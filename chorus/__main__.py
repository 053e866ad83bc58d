"""`python -m chorus` is `chorus`."""

from chorus.cli import main

main()

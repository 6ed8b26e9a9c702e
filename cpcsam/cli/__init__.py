"""The command line `cpcsam`."""

"""The command line: arguments, output, progress bars, exit codes. One file per verb; see `terramorph.cli.app`."""

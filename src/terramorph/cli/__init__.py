"""The command line: argv, printing, progress bars, exit codes. One file a verb; see `terramorph.cli.app`."""

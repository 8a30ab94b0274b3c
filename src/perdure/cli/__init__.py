"""The command line: the main program, its subcommands and its help."""

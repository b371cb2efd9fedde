"""The commands of the command line: one or two a file, the options they share, and what they print."""

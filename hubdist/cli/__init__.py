"""The command `hubdist`: what the library does, from a terminal, a script or `ray job submit`.

`main` is the entry point. `output` holds the contract that all commands keep: results go to standard output and all
else to standard error. `exits` turns errors into exit codes and hints. `session` connects a command to Ray. Each module
of `commands` is one command, and imports what is heavy only when it runs.
"""

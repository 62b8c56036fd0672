"""What all tests share: how signals are handled when they begin."""

import signal

# A shell that starts something in the background has it ignore these two, and every process below
# inherits that: tests of how our processes take a signal would then test the shell.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

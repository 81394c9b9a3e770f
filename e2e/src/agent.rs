//! The agent on the worker, and the command line that asks it.

"""The contract of functions: call, parameters, errors, shapes, and the ports for all I/O."""

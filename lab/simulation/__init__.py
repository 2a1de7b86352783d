"""The whole pipeline in one process, under a clock, a scheduler and faults that all come from one seed."""

"""What every process that serves functions stands on, whatever it speaks: who may call, how often, and the ports of the functions."""

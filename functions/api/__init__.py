"""What a function is: its call, parameters, errors and shapes, and the ports through which it reaches
everything else.
"""

"""Times parts of the library against other implementations of the same.

In one process, on random data, in turns: each round calls every implementation once, so
that a machine that others slow down slows them all. Ratios are of medians, ours in the
denominator: 2 says that we take half of their time. A baseline that is not installed is
null, with the reason. Each module holds one comparison; what stands and falls with
torch or OpenCV is in `torch_networks` and `opencv_synthesis`.
"""

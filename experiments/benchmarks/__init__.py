"""Speed of ours, alone and beside other libraries; not needed to use the library."""

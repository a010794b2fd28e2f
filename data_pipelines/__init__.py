"""From folders of RGB-D samples to streams of batches."""

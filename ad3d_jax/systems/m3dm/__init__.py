"""M3DM and its robust successor: banks of point, image and fused features."""

"""Pure array functions of images, clouds and features."""

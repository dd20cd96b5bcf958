"""Look at a source of images and at this machine, and write a config that fits both, with its reasons."""

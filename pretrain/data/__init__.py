"""From files to batches of views: images, shards, pixels, augmentation, the order of an epoch."""

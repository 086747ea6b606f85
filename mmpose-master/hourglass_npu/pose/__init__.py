"""From a picture to joints: reading, cropping, decoding, drawing."""

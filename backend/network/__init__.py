"""Networks that see a face: crops of photos in, coefficients of a face model, pose and light out."""

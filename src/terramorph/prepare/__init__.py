"""From what people have to pairs: planned on a grid, judged, split by place, written with a manifest. No torch."""

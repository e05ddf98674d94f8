"""Pictures of masks, weights and findings as .png, .svg and .pdf. The only room that imports matplotlib."""

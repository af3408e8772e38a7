"""A home behind one address: the API that clients already speak, and a page."""

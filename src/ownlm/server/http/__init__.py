"""HTTP outside the routes: connections, middleware, origins, request bodies, errors, the files of the page."""

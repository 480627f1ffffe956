"""`throughtime bench`: the project's claims about speed, measured on the user's own machine."""

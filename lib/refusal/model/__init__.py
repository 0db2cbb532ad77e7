"""Models: what can be named, where its files are, loading under uniform names, weights changed and put
back."""

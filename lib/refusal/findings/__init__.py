"""One paper's own parts in a package of its own. No finding imports another: what two need moves down."""

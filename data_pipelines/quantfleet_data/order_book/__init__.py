"""Level-2 order books: replay of snapshots and deltas, measures of the book, and these as columns of bars."""

from quantfleet_data.order_book.features import BookFeaturesConfig
from quantfleet_data.order_book.join import join_book
from quantfleet_data.order_book.replay import BookReplay, replay

__all__ = ["BookFeaturesConfig", "BookReplay", "join_book", "replay"]

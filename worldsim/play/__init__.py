"""What play.py is made of: a window, a heads-up display, and a worker thread that runs the world behind them."""

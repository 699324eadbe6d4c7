"""What a person sees: figures (Matplotlib), the page (HTML), the terminal."""

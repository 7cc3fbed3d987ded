"""Looking at trained policies and taking them away: pictures, pages, files for other programs."""

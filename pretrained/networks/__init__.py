"""Networks, one a file. A card's ``network`` section names one and holds its arguments."""

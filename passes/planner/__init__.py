"""Where every value should live: candidate layouts, modelled cost, and the search over both."""

"""From predictions and references to the table of case x region scores."""

"""From a trained network to a prediction on the case's own grid."""

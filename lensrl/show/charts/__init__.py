"""Charts of a study that a reader can ask: tables with specifications of Vega-Lite."""

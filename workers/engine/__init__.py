"""How an intervened model is run: `suffix` computes only what an intervention can change, `reference` everything."""

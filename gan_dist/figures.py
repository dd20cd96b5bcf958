"""Names of figures in metrics.jsonl that several rooms know."""

LOGITS = ("real", "fake", "gap", "level", "accuracy", "sign_real", "sign_fake", "sign_pair")
"""What is called score/NAME and judges no images: logits of the discriminator, and signals made of them."""

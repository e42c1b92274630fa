"""HTTP, S3 and the Hugging Face Hub: each lists files, and opens byte ranges of them."""

from tiny_training import train

__all__ = ["train"]

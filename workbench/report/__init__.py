import warnings

# Of tqdm, which timm brings: in a notebook it misses a package for bars that nothing here draws.
warnings.filterwarnings("ignore", message="IProgress not found")

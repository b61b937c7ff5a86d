import warnings

# tqdm, which comes with timm, warns in a notebook about a missing package. The workbench draws no progress bars there.
warnings.filterwarnings("ignore", message="IProgress not found")

"""SaShiMi: configuration, U-Net, autoregressive model; with S4, Mamba, or any other mixer."""

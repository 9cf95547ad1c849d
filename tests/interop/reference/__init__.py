"""An independent DLMS/COSEM client and server, against which ours are checked.

Written from the published facts alone, before and without a look at the crate `dlms`: where both agree, two readings
of the same text agree. It needs Python 3.11 and the package `cryptography`; it is a reference, not a product: it
holds keys in memory, takes its lab's test keys from a file, and serves loopback only.
"""

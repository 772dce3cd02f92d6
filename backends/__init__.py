"""What a pass may select: attention kernels now; fused kernels, collectives and code generators as they come."""

def close_jobs(): pass

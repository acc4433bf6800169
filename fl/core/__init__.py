"""What every federation is made of: types, protocols, and the loop over rounds."""

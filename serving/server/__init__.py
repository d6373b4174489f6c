"""The embedded model server: TensorFlow Serving's two APIs over SavedModels in this process."""

"""The exported modules and what makes them traceable, fp16 and int8."""

//! Can every node learn every other's routes by the sessions there are?
